"""One folder a cloud, and what clouds share."""
