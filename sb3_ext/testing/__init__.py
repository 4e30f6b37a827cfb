"""What proves an algorithm right: oracles and (in a later release) conformance suites."""
