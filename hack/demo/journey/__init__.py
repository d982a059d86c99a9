"""The whole way from a clean clone to a score, for a stranger to watch.

`cli` is the order of things; `places` says what differs between the local cluster and the user's own; `watch`
shows a job at work; `console` prints, and runs and stops commands. Standard library only.
"""
