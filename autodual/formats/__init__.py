"""Files that others write: properties and networks."""
