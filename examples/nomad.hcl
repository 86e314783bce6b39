# A job of Nomad on every node: the image comes up before its task starts and goes when the allocation ends.
# Not run here: Nomad is in no distribution that the tests use. veneer runs on each node as a unit of the host.
#
# The name of the activation is the allocation's id, so that asking twice is asking once.
job "web" {
  type = "system"

  update {
    max_parallel = 1
    health_check = "task_states"
    auto_revert  = true
  }

  group "web" {
    task "image" {
      driver = "raw_exec"
      lifecycle {
        hook    = "prestart"
        sidecar = false
      }
      config {
        command = "/usr/bin/orchestrate"
        args    = ["activate", "s3://bucket/images/web-7/", "--name", "${NOMAD_ALLOC_ID}"]
      }
    }

    task "web" {
      driver = "raw_exec"
      config {
        command = "/usr/local/bin/run-web"
        args    = ["/dev/mapper/${NOMAD_ALLOC_ID}"]
      }
    }

    task "gone" {
      driver = "raw_exec"
      lifecycle {
        hook    = "poststop"
        sidecar = false
      }
      config {
        command = "/usr/bin/orchestrate"
        args    = ["rm", "${NOMAD_ALLOC_ID}", "--when-closed"]
      }
    }
  }
}
