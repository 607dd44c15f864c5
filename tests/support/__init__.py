"""What tests share: models, servers, hosts, processes."""
