"""What runs on Ray: encoding a gallery on several machines. Only this package imports ray."""
