"""`make bench`: the service and its peers, measured."""
