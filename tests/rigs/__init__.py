"""Rigs for tests: scripted services, a fault proxy and a running service, all real servers on loopback."""
