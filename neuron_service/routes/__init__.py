"""One module per group of endpoints. A route decodes, makes one library call, encodes."""
