output "worker_role_arn" {
  description = "For the service account's annotation eks.amazonaws.com/role-arn, or a Pod Identity association."
  value       = aws_iam_role.worker.arn
}

output "operator_policy_arn" {
  description = "For people who read the fleet's status and change leases."
  value       = aws_iam_policy.operator.arn
}

output "table_creator_policy_arn" {
  description = "For people who create such tables elsewhere."
  value       = aws_iam_policy.table_creator.arn
}
