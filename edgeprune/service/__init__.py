"""A small HTTP service for a bundle: `edgeprune serve`, with the extra `service`."""
