"""Who moves a node: `aio` over real connections, `virtual` over a heap. Both keep the same contract."""
