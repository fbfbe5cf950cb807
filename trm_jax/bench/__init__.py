"""What the library's own programs take on the devices at hand."""
