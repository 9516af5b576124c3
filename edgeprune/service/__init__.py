"""A small HTTP service for a bundle: `edgeprune serve`, by `pip install 'edgeprune[service]'`."""
