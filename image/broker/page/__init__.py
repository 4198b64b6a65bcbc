"""The live page of the cluster: what it shows, and the server behind the IDE's login."""
