"""One module for each group of endpoints. A route decodes, makes one call of the library, and encodes."""
