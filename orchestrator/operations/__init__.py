"""What several verbs do with the nodes of a cluster, each to be tried on its own."""
