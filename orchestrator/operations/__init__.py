"""Operations on a cluster that several verbs and the Python API share. Each can be tested on its own."""
