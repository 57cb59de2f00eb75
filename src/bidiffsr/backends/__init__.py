"""What runs a network: the native engine, or PyTorch."""
