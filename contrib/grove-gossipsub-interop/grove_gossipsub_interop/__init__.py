"""Grove as a node of libp2p's gossipsub-interop (libp2p/test-plans): see `__main__`."""
