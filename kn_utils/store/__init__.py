"""Tables on disk with their origin inside."""
