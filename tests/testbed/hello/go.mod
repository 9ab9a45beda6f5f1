module tunesmith.dev/tests/testbed/hello

go 1.26.0

tool tunesmith.dev/tests/testbed/hello
