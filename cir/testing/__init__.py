"""Fakes and conformance suites for those who write their own encoder or gallery, and for this project's tests."""
