"""One address in front of several servers: each request goes where it is answered best."""
