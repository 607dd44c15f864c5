"""Who belongs to a cluster: certificates, invitations, and HTTPS between its machines."""
