variable "app" {
  description = "The application (--app), and so the name of its lease table. Its fleet table is called APP-Fleet."
  type        = string
}

variable "table" {
  description = "The table whose stream the workers read. It must exist, with its stream switched on."
  type        = string
}

variable "oidc_provider" {
  description = "For IRSA, the cluster's OIDC issuer without https://. Empty for EKS Pod Identity."
  type        = string
  default     = ""
}

variable "cluster" {
  description = "For EKS Pod Identity, the cluster's name. Empty to create the association by hand, or for IRSA."
  type        = string
  default     = ""
}

variable "namespace" {
  description = "The namespace of the workers' service account."
  type        = string
  default     = "shardkeeper"
}

variable "service_account" {
  description = "The workers' service account."
  type        = string
  default     = "shardkeeper"
}
