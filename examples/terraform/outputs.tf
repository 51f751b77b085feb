output "nodes" {
  description = "The machines, with the attributes that orch init --from reads."
  value = {
    for name, node in aws_instance.node : name => {
      public_ip  = node.public_ip
      private_ip = node.private_ip
    }
  }
}

output "ssh_user" {
  description = "The user to log in as."
  value       = var.ssh_user
}
