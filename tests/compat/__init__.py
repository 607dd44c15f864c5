"""llama.cpp's own server tests and scripts, run against `dure serve`.

cd tests && python -m compat.run /path/to/llama.cpp
"""
