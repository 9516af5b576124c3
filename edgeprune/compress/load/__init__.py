"""The load stage: the model that the user named becomes one of the build's own."""
