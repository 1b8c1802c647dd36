"""What lies in `outside` is another distribution: tests put it on the path of processes of their own."""

collect_ignore = ["outside"]
