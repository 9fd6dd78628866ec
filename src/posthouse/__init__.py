"""Posthouse: a self-hosted serverless engine for GPU workers."""

__version__ = "0.1.0"
