# Tables, policies and the workers' role of one application:
#
#   module "phone_audit" {
#     source  = "…/deploy/terraform"
#     app     = "phone-audit"
#     table   = "Phones"
#     cluster = "production"
#   }
#
# The policies are the files of ../iam. A test of the project compares them with the calls that workers make.

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.30"
    }
  }
}

data "aws_caller_identity" "current" {}
data "aws_region" "current" {}

locals {
  # Outside the partition aws, the policies' ARNs need the other partition's name.
  names = {
    AWS_REGION     = data.aws_region.current.name
    AWS_ACCOUNT_ID = data.aws_caller_identity.current.account_id
    TABLE          = var.table
    APP            = var.app
  }
}

# The application's position in each shard. Without it, the stream is read again from its beginning.
resource "aws_dynamodb_table" "leases" {
  name                        = var.app
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "leaseKey"
  deletion_protection_enabled = true

  attribute {
    name = "leaseKey"
    type = "S"
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled = true
  }
}

# The workers of the fleet. Losing it costs a few seconds.
resource "aws_dynamodb_table" "fleet" {
  name         = "${var.app}-Fleet"
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "key"

  attribute {
    name = "key"
    type = "S"
  }

  server_side_encryption {
    enabled = true
  }
}

# Dead letters, with --on-failure dead-letter: the only copy of these records.
resource "aws_dynamodb_table" "dead_letters" {
  name                        = "${var.app}-DeadLetters"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "shard"
  range_key                   = "position"
  deletion_protection_enabled = true

  attribute {
    name = "shard"
    type = "S"
  }

  attribute {
    name = "position"
    type = "S"
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled = true
  }
}

resource "aws_iam_policy" "worker" {
  name        = "${var.app}-worker"
  description = "The calls of a worker of ${var.app}."
  policy      = templatefile("${path.module}/../iam/worker.json", local.names)
}

resource "aws_iam_policy" "operator" {
  name        = "${var.app}-operator"
  description = "The calls of shardkeeper status and shardkeeper lease on ${var.app}."
  policy      = templatefile("${path.module}/../iam/operator.json", local.names)
}

# For workers with --on-failure dead-letter, and for people who list, replay and purge dead letters.
resource "aws_iam_policy" "dead_letters" {
  name        = "${var.app}-dead-letters"
  description = "Keeps, reads and deletes dead letters of ${var.app}."
  policy      = templatefile("${path.module}/../iam/dead-letters.json", local.names)
}

# For people who create the tables without this module.
resource "aws_iam_policy" "table_creator" {
  name        = "${var.app}-table-creator"
  description = "Creates the tables of ${var.app}."
  policy      = templatefile("${path.module}/../iam/table-creator.json", local.names)
}

# By IRSA if an OIDC provider is given, else by EKS Pod Identity.
data "aws_iam_policy_document" "trust" {
  dynamic "statement" {
    for_each = var.oidc_provider == "" ? [1] : []
    content {
      actions = ["sts:AssumeRole", "sts:TagSession"]
      principals {
        type        = "Service"
        identifiers = ["pods.eks.amazonaws.com"]
      }
    }
  }

  dynamic "statement" {
    for_each = var.oidc_provider == "" ? [] : [1]
    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]
      principals {
        type        = "Federated"
        identifiers = ["arn:aws:iam::${local.names.AWS_ACCOUNT_ID}:oidc-provider/${var.oidc_provider}"]
      }
      condition {
        test     = "StringEquals"
        variable = "${var.oidc_provider}:aud"
        values   = ["sts.amazonaws.com"]
      }
      condition {
        test     = "StringEquals"
        variable = "${var.oidc_provider}:sub"
        values   = ["system:serviceaccount:${var.namespace}:${var.service_account}"]
      }
    }
  }
}

resource "aws_iam_role" "worker" {
  name               = "${var.app}-worker"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy_attachment" "worker" {
  role       = aws_iam_role.worker.name
  policy_arn = aws_iam_policy.worker.arn
}

resource "aws_iam_role_policy_attachment" "dead_letters" {
  role       = aws_iam_role.worker.name
  policy_arn = aws_iam_policy.dead_letters.arn
}

resource "aws_eks_pod_identity_association" "worker" {
  count           = var.cluster == "" || var.oidc_provider != "" ? 0 : 1
  cluster_name    = var.cluster
  namespace       = var.namespace
  service_account = var.service_account
  role_arn        = aws_iam_role.worker.arn
}
