#!/usr/bin/env bash
# Installs Debian's SLURM on this one machine and starts it: munged, slurmctld and slurmd.
# Run as root. Prints the reason and exits with 77 where that is not possible.
set -euo pipefail

skip() { echo "SLURM tests skipped: $1"; exit 77; }

[ "$(id -u)" = 0 ] || skip "not root"
if ! command -v slurmctld slurmd munged sbatch >/dev/null; then
    command -v apt-get >/dev/null || skip "no apt-get to install slurm-wlm with"
    export DEBIAN_FRONTEND=noninteractive
    (apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge) >/tmp/slurm-install.log 2>&1 ||
        skip "slurm-wlm and munge could not be installed: $(tail -1 /tmp/slurm-install.log)"
fi

host=$(hostname -s)
folder=/tmp/poisonbench-slurm
if scontrol ping 2>/dev/null | grep -q UP && [ "$(sinfo -h -o %T -n "$host" 2>/dev/null)" = idle ]; then
    echo "SLURM is running"; exit 0
fi
mkdir -p "$folder"/{state,spool,logs} /run/munge /var/log/munge /var/lib/munge /etc/munge /etc/slurm
if [ ! -s /etc/munge/munge.key ]; then
    head -c 128 /dev/urandom >/etc/munge/munge.key
fi
chown -R munge: /etc/munge /run/munge /var/log/munge /var/lib/munge
chmod 0755 /run/munge
chmod 0400 /etc/munge/munge.key
cat >/etc/slurm/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=10
MinJobAge=3600
MpiDefault=none
ReturnToService=2
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldLogFile=$folder/logs/slurmctld.log
SlurmdLogFile=$folder/logs/slurmd.log
NodeName=$host CPUs=$(nproc) State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=60 State=UP
CONF
pgrep -x munged >/dev/null || runuser -u munge -- munged || skip "munged does not start"
pgrep -x slurmctld >/dev/null || slurmctld || skip "slurmctld does not start"
for _ in $(seq 30); do
    scontrol ping 2>/dev/null | grep -q UP && break
    sleep 1
done
pgrep -x slurmd >/dev/null || slurmd || skip "slurmd does not start"
for _ in $(seq 30); do
    [ "$(sinfo -h -o %T -n "$host" 2>/dev/null)" = idle ] && { echo "SLURM is running"; exit 0; }
    scontrol update nodename="$host" state=resume 2>/dev/null || true
    sleep 1
done
skip "the node is not idle: $(sinfo -h -o '%n %T %E' 2>&1 | head -1)"
