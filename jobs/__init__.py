"""The commands: one module a command.

arguments/      the options of each command
command_line/   from parsing of options, exit codes, terminal output; no torch, no Ray
execution/      what each command does with its options
cluster/        Ray: connect, count workers, drive a run, handle signals
display/        progress of a labelling run, tables of a training run
"""
