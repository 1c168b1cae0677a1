#!/usr/bin/env bash
# Runs a command beside an Apache Kafka broker of its own, on 127.0.0.1:$KAFKA_PORT (9092), controller on $KAFKA_CONTROLLER_PORT.
#   scripts/kafka.sh JARS bash                 the broker's jars are fetched into JARS the first time; without a command that is all
# Its data are in a temporary directory, or in $KAFKA_DIR and stay there; $KAFKA_DIR/pid is the broker's process.
# $KAFKA_CONF: more lines for its configuration; $KAFKA_OPTS: options for its Java, without spaces in them.
set -euo pipefail

jars=$1
shift
pom="$(cd "$(dirname "$0")" && pwd)/kafka/pom.xml"
if ! cmp -s "$pom" "$jars/pom.xml"; then
    echo "== fetching Apache Kafka, once, into $jars" >&2
    rm -rf "$jars"
    mkdir -p "$jars"
    mvn -q -B -f "$pom" dependency:copy-dependencies -DoutputDirectory="$jars" -DincludeScope=runtime >&2
    cp "$pom" "$jars/pom.xml"
fi
[ $# -eq 0 ] && exit 0

port=${KAFKA_PORT:-9092} controller=${KAFKA_CONTROLLER_PORT:-9093}
dir=${KAFKA_DIR:-$(mktemp -d)}
broker=
stop() {
    [ -z "$broker" ] || kill -9 "$broker" 2>/dev/null || true
    [ -n "${KAFKA_DIR:-}" ] || rm -rf "$dir"
}
trap stop EXIT

# A small heap, and no more compiling than a short life needs.
kafka() {
    exec java -Xms64m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info \
        ${KAFKA_OPTS:-} -cp "$jars/*" "$@"
}
cat >"$dir/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
${KAFKA_CONF:-}
CONF
if [ ! -e "$dir/data/meta.properties" ]; then
    (kafka kafka.tools.StorageTool format -t dGlkZW1hcmstdGVzdHMtMQ -c "$dir/server.properties") >"$dir/format.log" 2>&1 ||
        { cat "$dir/format.log" >&2; exit 1; }
fi
kafka kafka.Kafka "$dir/server.properties" >"$dir/log" 2>&1 &
broker=$!
echo "$broker" >"$dir/pid"
until grep -q 'Kafka Server started' "$dir/log"; do
    kill -0 "$broker" 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
    sleep 0.1
done
KAFKA_BOOTSTRAP=127.0.0.1:$port "$@"
