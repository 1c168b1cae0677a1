"""One query in a Flink of its own, which begins and ends with this process.

    JVM with JobManager and TaskManager ──▶ the query over the first events: its classes are loaded, its code is compiled
                                        ──▶ over few events: what a job costs whatever it reads
                                        ──▶ over all events, less the job before ──▶ a line of JSON: CPU-seconds, seconds, memory

`python job.py QUERY SCRATCH_DIRECTORY FIRST.json FEW.json ALL.json`
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "common"))

from pyflink.common import Configuration
from pyflink.java_gateway import get_gateway
from pyflink.table import EnvironmentSettings, TableDescriptor, TableEnvironment

import processes
from queries import QUERIES, SOURCE, VIEWS

# All else is as Flink has it: no mini-batches, objects not reused, G1.
SETTINGS = {
    "parallelism.default": "1",
    "state.backend.type": "hashmap",
    "execution.checkpointing.interval": "10 s",
    "execution.checkpointing.storage": "filesystem",
    "table.local-time-zone": "UTC",
}


def start_cluster() -> dict[str, str]:
    """A cluster in the JVM that PyFlink has started, and the settings with which jobs find it."""
    jvm = get_gateway().jvm
    configuration = jvm.org.apache.flink.configuration.Configuration()
    for key, value in {"rest.address": "localhost", "rest.bind-port": "0"}.items():
        configuration.setString(key, value)
    minicluster = jvm.org.apache.flink.runtime.minicluster
    builder = minicluster.MiniClusterConfiguration.Builder().setConfiguration(configuration)
    cluster = minicluster.MiniCluster(builder.setNumTaskManagers(1).setNumSlotsPerTaskManager(1).build())
    cluster.start()
    address = cluster.getRestAddress().get()
    return {"execution.target": "remote", "rest.address": address.getHost(), "rest.port": str(address.getPort())}


def run(name: str, path: str, settings: dict[str, str]) -> tuple[float, float]:
    """CPU-seconds and seconds from the submission of a query until it has read all of a file."""
    configuration = Configuration()
    for key, value in settings.items():
        configuration.set_string(key, value)
    environment = TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build()
    )
    query = QUERIES[name]
    for statement in [SOURCE.format(path=path), *VIEWS, *filter(None, [query.needs])]:
        environment.execute_sql(statement)
    cpu, began = own_cpu_seconds(), time.monotonic()
    environment.sql_query(query.sql).execute_insert(TableDescriptor.for_connector("blackhole").build()).wait()
    return own_cpu_seconds() - cpu, time.monotonic() - began


def own_cpu_seconds() -> float:
    return processes.cpu_seconds(os.getpid())


def measure(name: str, scratch: str, first: str, few: str, every: str) -> dict[str, float]:
    settings = SETTINGS | start_cluster() | {"execution.checkpointing.dir": f"file://{scratch}"}
    run(name, first, settings)
    few_cpu, few_seconds = run(name, few, settings)
    before = own_cpu_seconds()
    cpu, seconds = run(name, every, settings)
    return {
        "cpu_seconds": cpu - few_cpu,
        "seconds": seconds - few_seconds,
        "cpu_seconds_before": before,
        "peak_bytes": sum(map(processes.peak_bytes, processes.tree(os.getpid())[1:])),
    }


if __name__ == "__main__":
    try:
        measured = measure(*sys.argv[1:])
    except Exception as failure:  # of Java's, whose causes are lines of its text
        lines = [line.strip() for line in str(failure).splitlines()]
        reasons = [line for line in lines if ("Exception" in line or "Error" in line) and not line.startswith("at ")]
        measured = {"failure": reasons[-1] if reasons else str(failure)}
    print(json.dumps(measured), flush=True)
    processes.end_children()
    os._exit(0)  # PyFlink would look for its JVM once more
