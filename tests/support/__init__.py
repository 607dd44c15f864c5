"""Models, servers, hosts and processes that tests share."""
