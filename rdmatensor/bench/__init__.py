"""The benchmark behind `rdmatensor bench`: README.md says what is measured and how; one file per mode in `modes/`.

Nothing of the library imports it, and it uses the library as anybody would, but for `native`.
"""
