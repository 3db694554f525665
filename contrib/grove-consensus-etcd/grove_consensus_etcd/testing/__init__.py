"""For tests of this plugin, and of whatever stands on it: a model of etcd, and a real one on loopback."""
