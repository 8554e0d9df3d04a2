# Yours. The platform's commands are in dev/platform.mk, which an upgrade replaces; add your own
# targets below it. Pass settings after the command: make run PORT=9000
include dev/platform.mk
