locals {
  # Families whose machines have NVIDIA GPUs: g4dn, g5, g6, g6e, p3, p4d, p4de, p5, p5en, p6.
  gpu = can(regex("^(g4dn|g[5-9]|p[3-9])", var.instance_type))
  ami = coalesce(var.ami, local.gpu ? data.aws_ami.deep_learning.id : data.aws_ami.ubuntu.id)

  names = [for index in range(var.nodes) : format("node%02d", index + 1)]
}

data "aws_ami" "ubuntu" {
  most_recent = true
  owners      = ["099720109477"] # Canonical

  filter {
    name   = "name"
    values = ["ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-*"]
  }
}

data "aws_ami" "deep_learning" {
  most_recent = true
  owners      = ["amazon"]

  filter {
    name   = "name"
    values = ["Deep Learning OSS Nvidia Driver AMI GPU PyTorch * (Ubuntu 22.04) *"]
  }
}

data "aws_vpc" "default" {
  default = true
}

data "aws_subnets" "zone" {
  filter {
    name   = "vpc-id"
    values = [data.aws_vpc.default.id]
  }

  filter {
    name   = "default-for-az"
    values = ["true"]
  }

  dynamic "filter" {
    for_each = var.availability_zone == null ? [] : [var.availability_zone]

    content {
      name   = "availability-zone"
      values = [filter.value]
    }
  }
}

resource "aws_key_pair" "login" {
  key_name_prefix = "${var.name}-"
  public_key      = file(pathexpand(var.public_key))
}

# All machines close together in one zone: low latency, and the full bandwidth between any two of them.
resource "aws_placement_group" "close" {
  name     = var.name
  strategy = "cluster"
}

resource "aws_security_group" "nodes" {
  name_prefix = "${var.name}-"
  description = "SSH from ssh_from; everything between the machines of the cluster"
  vpc_id      = data.aws_vpc.default.id

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  for_each = toset(var.ssh_from)

  security_group_id = aws_security_group.nodes.id
  description       = "SSH"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

# Ranks listen on ports that the system chooses, so between the machines every port is open.
resource "aws_vpc_security_group_ingress_rule" "within" {
  security_group_id            = aws_security_group.nodes.id
  description                  = "Between the machines"
  referenced_security_group_id = aws_security_group.nodes.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "out" {
  security_group_id = aws_security_group.nodes.id
  description       = "Packages and data"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

resource "aws_instance" "node" {
  for_each = toset(local.names)

  ami                         = local.ami
  instance_type               = var.instance_type
  subnet_id                   = sort(data.aws_subnets.zone.ids)[0]
  vpc_security_group_ids      = [aws_security_group.nodes.id]
  key_name                    = aws_key_pair.login.key_name
  placement_group             = aws_placement_group.close.name
  associate_public_ip_address = true

  # A shutdown on the machine removes it, so that it costs nothing more. Spot machines are removed anyway.
  instance_initiated_shutdown_behavior = var.spot ? null : "terminate"

  dynamic "instance_market_options" {
    for_each = var.spot ? [var.spot_max_price] : []

    content {
      market_type = "spot"

      spot_options {
        max_price                      = instance_market_options.value
        instance_interruption_behavior = "terminate"
      }
    }
  }

  metadata_options {
    http_tokens = "required"
  }

  root_block_device {
    volume_size           = var.disk_gb
    volume_type           = "gp3"
    encrypted             = true
    delete_on_termination = true
  }

  tags = {
    Name = "${var.name}-${each.key}"
  }

  lifecycle {
    # A newer image must not replace machines that are in use.
    ignore_changes = [ami]
  }
}
