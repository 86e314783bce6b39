#!/bin/sh
# A prolog of Slurm: brings the image of a job to each of its nodes before the first task starts.
#
#   srun --comment=veneer:s3://bucket/prefix/ COMMAND        slurm.conf: Prolog=/etc/slurm/slurm-prolog.sh
#
# Runs as root on each node. A prolog that ends with anything but 0 DRAINS THE NODE, so a typing error in one job would
# take every node of a partition down. Only 111 (try again) requeues the job; whatever else went wrong is told by the
# job's own first step, which does not find its image.
set -u

# scontrol puts blanks before `Comment=`.
image=$(/usr/bin/scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Comment=veneer:\([^ ]*\).*/\1/p')
# Whoever submits a job writes this: an image on a server, and no option or file of the host.
case $image in
s3://* | oci:s3://* | docker://*) ;;
*) exit 0 ;;
esac

said=$(orchestrate ensure "$image" 2>&1)
code=$?
[ "$code" = 0 ] || logger -t slurm-prolog "job $SLURM_JOB_ID: $said"
case $code in
111) exit 1 ;;
*) exit 0 ;;
esac
