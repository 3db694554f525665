"""Grove's kernel: the contract, the registry, the configuration and the two drivers.

It knows no protocol by name and imports no plugin.
"""
