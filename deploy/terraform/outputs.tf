output "worker_role_arn" {
  description = "For the service account's annotation eks.amazonaws.com/role-arn, or a Pod Identity association."
  value       = aws_iam_role.worker.arn
}

output "operator_policy_arn" {
  description = "For the people who look at the fleet and intervene."
  value       = aws_iam_policy.operator.arn
}

output "table_creator_policy_arn" {
  description = "For whoever makes such tables elsewhere."
  value       = aws_iam_policy.table_creator.arn
}
