"""Tests for users: `scipion tests cryopares_plugin.tests.test_protocols`. They make their own data and take some minutes."""
