variable "name" {
  description = "The name of the cluster, and the first part of the names of all that belongs to it."
  type        = string
  default     = "orch"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.name))
    error_message = "name: expected lower-case letters, digits and dashes, at most 31, a letter first."
  }
}

variable "region" {
  description = "The region. Prices, quotas and the types on offer differ between regions."
  type        = string
  default     = "eu-central-1"
}

variable "availability_zone" {
  description = "The zone of all machines, such as eu-central-1a; null leaves the choice to AWS. Traffic between zones costs money, and is slower."
  type        = string
  default     = null
}

variable "nodes" {
  description = "How many machines."
  type        = number
  default     = 2

  validation {
    condition     = var.nodes >= 1 && floor(var.nodes) == var.nodes
    error_message = "nodes: expected a whole number from 1 on."
  }
}

variable "instance_type" {
  description = "The type of each machine. CPU only: c7i.2xlarge, c7i.8xlarge. With GPUs: g5.xlarge (1 A10G), g6.12xlarge (4 L4), p4d.24xlarge (8 A100), p5.48xlarge (8 H100)."
  type        = string
  default     = "c7i.2xlarge"
}

variable "ami" {
  description = "The image; null takes the newest Ubuntu 22.04 for types without GPUs, and Amazon's Deep Learning image with the NVIDIA driver and PyTorch for the others."
  type        = string
  default     = null
}

variable "ssh_user" {
  description = "The user of the image: ubuntu for Ubuntu's, ec2-user for Amazon Linux."
  type        = string
  default     = "ubuntu"
}

variable "public_key" {
  description = "The file with the public key that may log in."
  type        = string
  default     = "~/.ssh/id_ed25519.pub"
}

variable "ssh_from" {
  description = "The addresses that SSH is open to, in CIDR notation: your own as the internet sees it, such as 203.0.113.7/32."
  type        = list(string)

  validation {
    condition     = length(var.ssh_from) > 0 && alltrue([for each in var.ssh_from : try(can(cidrnetmask(each)) && tonumber(split("/", each)[1]) >= 8, false)])
    error_message = "ssh_from: expected IPv4 networks such as 203.0.113.7/32, none larger than /8."
  }
}

variable "spot" {
  description = "Whether to use spare capacity: much cheaper, and AWS may take a machine back two minutes after saying so."
  type        = bool
  default     = false
}

variable "spot_max_price" {
  description = "The most to pay for an hour of a spot machine, in US dollars, such as \"1.20\"; null: at most the price without spot."
  type        = string
  default     = null
}

variable "disk_gb" {
  description = "The size of each machine's disk, in GB."
  type        = number
  default     = 100
}
