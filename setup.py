"""Only what pyproject.toml cannot say: cffi builds the C core. Everything else stands there."""

from setuptools import setup

setup(cffi_modules=["csrc/ffi_build.py:ffibuilder"])
