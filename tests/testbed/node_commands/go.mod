module tunesmith.dev/tests/testbed/node_commands

go 1.26.0

tool (
	tunesmith.dev/tests/testbed/node_commands/errand
	tunesmith.dev/tests/testbed/node_commands/pause
)
