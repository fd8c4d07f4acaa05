"""The commands: one module a command with its options at the top; what runs them is in `execution`.

command_line/   words to options, exit codes, lines on the terminal; no torch, no Ray
execution/      what each command does once its options are read
cluster/        Ray: connect, count workers, drive a run, hear signals
display/        progress of a labelling run, tables of a training run
"""
