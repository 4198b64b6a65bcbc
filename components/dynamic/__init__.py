"""Dynamic resources. Stacks store these modules by import path: never move or rename them."""
