"""The benchmark behind `rdmatensor bench`: README.md defines what it measures and how; `modes/` has
one file per mode.

No module of the library imports it. Apart from `native`, it uses only the library's public
interface.
"""
