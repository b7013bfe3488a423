# What may stay of Ignition's log: its stages, what it finished, and what went wrong.
# Never the config: anything that is not a log line goes, and so do data URLs and password hashes.
/^\(EMERGENCY\|ALERT    \|CRITICAL \|ERROR    \|WARNING  \|NOTICE   \|INFO     \):/!d
# Of every run the same, and of no use to a reader
/: no config /d
/: reading system config file /d
/: failed to log systemd journal entry: /d
/: failed to fetch config: resource requires networking$/d
/: \[started\] /d
s/\([ "=]\)data:[^" ]*/\1data:(not logged)/g
s/\("--password" \)"[^"]*"/\1"(not logged)"/g
