"""Data alone: devices, links, engines, published models, and speeds that others have published."""
