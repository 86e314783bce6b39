#!/bin/sh
# An image on every node of a Docker Swarm, and a rolling change of it. veneer runs on each node as a unit of the host,
# since services of Swarm get no devices; the services only ask it over its socket.
#
#   swarm.sh pull IMAGE            every node has the image when this ends
#   swarm.sh run NAME IMAGE        a service that runs where the image is
#   swarm.sh update NAME IMAGE     node by node; the first that cannot have the image takes the change back
#
# CLIENT is an image of the static `orchestrate` alone, which every node has:
#   tar -c orchestrate | docker import - veneer:1
set -eu

client=${CLIENT:-veneer:1}
socket=type=bind,source=/run/veneer/veneer.sock,target=/run/veneer/veneer.sock

case $1 in
pull)
  docker service create --mode global-job --no-resolve-image --network host --mount "$socket" \
    "$client" /orchestrate --socket /run/veneer/veneer.sock ensure "$2"
  ;;
run)
  # The entry point of a service of your own goes in the place of `sleep`.
  docker service create --name "$2" --mode global --no-resolve-image --mount "$socket" --env IMG="$3" \
    --update-parallelism 1 --update-monitor 10s --update-failure-action rollback --update-max-failure-ratio 0 \
    "${SHELL_IMAGE:?an image with a shell and orchestrate}" \
    sh -c 'orchestrate --socket /run/veneer/veneer.sock ensure "$IMG" && exec sleep infinity'
  ;;
update)
  docker service update --env-add IMG="$3" "$2"
  ;;
*)
  echo "pull, run or update?" >&2
  exit 100
  ;;
esac
