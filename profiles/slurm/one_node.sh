#!/usr/bin/env bash
# A Slurm of one node on this machine, to try the profile for real (Debian: apt install slurm-wlm munge; as root):
#   profiles/slurm/one_node.sh ./run_all.sh --profile profiles/slurm/one_node --models mini --relation P36 --notebooks 01 02
# Starts munge, slurmctld and slurmd in a folder of their own, runs the command, and ends all three. Jobs look for the
# configuration in /etc/slurm, which is refused where there is one already.
set -u
[ $# -gt 0 ] || { sed -n '2,5p' "$0"; exit 2; }
for needed in munged slurmctld slurmd sbatch; do
  command -v "$needed" >/dev/null || PATH=$PATH:/usr/sbin
  command -v "$needed" >/dev/null || { echo "one_node.sh: $needed is not here; apt install slurm-wlm munge" >&2; exit 2; }
done
place=$(mktemp -d) node=$(hostname -s)
cores=$(nproc) memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
chmod 755 "$place"; mkdir -p "$place/munge" "$place/state" "$place/spool"
dd if=/dev/urandom of="$place/munge/key" bs=1 count=1024 2>/dev/null; chmod 400 "$place/munge/key"; chmod 700 "$place/munge"
conf=/etc/slurm/slurm.conf
[ -e "$conf" ] && { echo "one_node.sh: $conf is there already: this machine belongs to a cluster, try the profile on it." >&2; exit 2; }
mkdir -p /etc/slurm || exit 2
cat >"$conf" <<CONF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$place/munge/socket
CredType=cred/munge
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmdTimeout=20
InactiveLimit=0
KillWait=5
MailProg=/bin/true
SchedulerParameters=sched_interval=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
finish() {
  scancel --user "$(id -un)" 2>/dev/null
  local pids=
  for file in "$place"/slurmd.pid "$place"/slurmctld.pid "$place"/munge/pid; do [ -f "$file" ] && pids="$pids $(cat "$file")"; done
  kill $pids 2>/dev/null
  for _ in $(seq 20); do kill -0 $pids 2>/dev/null || break; sleep 0.5; done
  kill -9 $pids 2>/dev/null
  pkill -9 slurmstepd  # of a job that did not hear; no other Slurm is here
  rm -f "$conf"
  [ "${KEEP:-}" ] && echo "logs are left in $place" || rm -rf "$place"
}
trap finish EXIT
munged --key-file "$place/munge/key" --socket "$place/munge/socket" --pid-file "$place/munge/pid" \
  --log-file "$place/munge/log" --seed-file "$place/munge/seed" --force 2>/dev/null || { echo "one_node.sh: munged did not start" >&2; exit 1; }
slurmctld && slurmd || { tail -n 5 "$place"/*.log >&2; exit 1; }
for _ in $(seq 30); do [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && break; sleep 1; done
[ "$(sinfo -h -o %T 2>/dev/null)" = idle ] || { echo "one_node.sh: the node does not come up" >&2; tail -n 5 "$place"/*.log >&2; exit 1; }
"$@"
